"""What the machine can do, and the lower bound of a training step: see `benchmarks/moe_layer.py`.

Axes: M rows of one expert, D model, H hidden units of one expert.
"""

import mmap
import time
from functools import partial

import numpy as np
import tensorflow as tf

BANDWIDTH_BYTES = 2**28
CACHED_EXPERTS = 4  # weights of so many experts stay in the cache
PRODUCTS = ("forward", "rows_gradient", "weights_gradient")
MAX_REPEATS = 16  # products in one graph, so that starting the graph takes no part of the time


class Clock:
    """Times of repeated measurements, by the clock and of the processor.

    Attributes:
        wall: list of seconds.
        processor: list of seconds of all cores.
    """

    def __init__(self):
        self.wall, self.processor = [], []

    def measure(self, function, is_kept=True):
        """Calls a function and returns its result."""
        start, processor_start = time.perf_counter(), time.process_time()
        result = function()
        if is_kept:
            self.wall.append(time.perf_counter() - start)
            self.processor.append(time.process_time() - processor_start)
        return result

    def median(self, kind="wall"):
        return float(np.median(getattr(self, kind)))


class Limits:
    """Measurements of the machine, repeated in every round of a cell.

    Args:
        rows: M, the mean rows of an expert.
        sizes: `(D, H, K)`.
    """

    def __init__(self, rows, sizes):
        width, hidden, _ = sizes
        self.multiply_adds = width * hidden
        self.count = CACHED_EXPERTS if rows <= 1024 else 1
        self.repeats = max(1, min(MAX_REPEATS, 2048 // rows))
        x, dy = (
            tf.random.normal([self.repeats, self.count, rows, columns])
            for columns in (width, hidden)
        )
        kernel = tf.random.normal([self.count, width, hidden])
        large = tf.random.normal([2048, 2048])
        numbers = tf.Variable(tf.zeros([BANDWIDTH_BYTES // 4]))
        length = tf.constant([BANDWIDTH_BYTES // 4])
        self.runs = {
            "product": graph(tf.matmul, large, large),
            "read": graph(lambda: tf.reduce_sum(numbers)),
            "write": graph(lambda n: tf.fill(n, tf.constant(1.0)), length),
        }
        operands = {"forward": (x, kernel), "rows_gradient": (dy, kernel)}
        operands["weights_gradient"] = (x, dy)
        for name in PRODUCTS:
            for way in (batched_products, plain_products):
                self.runs[name, way] = graph(partial(way, name), *operands[name])
        self.clocks = {name: Clock() for name in self.runs}

    def measure(self, is_kept=True):
        """One round of all measurements."""
        for name, run in self.runs.items():
            self.clocks[name].measure(run, is_kept)

    def seconds(self, kind="wall"):
        """Median seconds of each measurement; of a product, those of the faster way, for one
        expert.
        """
        medians = {name: clock.median(kind) for name, clock in self.clocks.items()}
        for name in PRODUCTS:
            ways = [medians.pop((name, way)) for way in (batched_products, plain_products)]
            medians[name] = min(ways) / self.repeats / self.count
        return medians

    def bounds(self, num_experts, num_tokens, k, kind="wall"):
        """Seconds of the lower bounds of a training step.

        Returns:
            The bound with products at the size of the cell, and with products of 2048³.
        """
        seconds = self.seconds(kind)
        at_size = 2 * num_experts * sum(seconds[name] for name in PRODUCTS)
        at_best = 6 * num_tokens * k * self.multiply_adds / 2048**3 * seconds["product"]
        weights = 4 * 2 * num_experts * self.multiply_adds
        traffic = weights / BANDWIDTH_BYTES * (2 * seconds["read"] + seconds["write"])
        return at_size + traffic, at_best + traffic

    def report(self, rows):
        """The speed of products of a cell's size and of 2048³, in GFLOP/s, and GB/s of memory."""
        seconds, operations = self.seconds(), 2e-9 * rows * self.multiply_adds
        return {
            **{f"{name}_gflops": operations / seconds[name] for name in PRODUCTS},
            "product_gflops": 2e-9 * 2048**3 / seconds["product"],
            "read_gbs": BANDWIDTH_BYTES / seconds["read"] / 1e9,
            "write_gbs": BANDWIDTH_BYTES / seconds["write"] / 1e9,
        }


def batched_products(name, first, second):
    """The products of a name in `PRODUCTS`: one operation for all experts, several times."""
    seconds = tf.unstack(second) if second.shape.rank == 4 else [second] * first.shape[0]
    pairs = zip(tf.unstack(first), seconds, strict=True)
    return any_element(product(name, a, b) for a, b in pairs)


def plain_products(name, first, second):
    """`batched_products` with an operation for each expert."""
    seconds = tf.unstack(second) if second.shape.rank == 4 else [second] * first.shape[0]
    pairs = zip(tf.unstack(first), seconds, strict=True)
    experts = [part for a, b in pairs for part in zip(tf.unstack(a), tf.unstack(b), strict=True)]
    return any_element(product(name, a, b) for a, b in experts)


def product(name, a, b):
    return tf.matmul(
        a, b, transpose_a=name == "weights_gradient", transpose_b=name == "rows_gradient"
    )


def any_element(products):
    """A sum of one element of each: whole results would need memory outside of the cache."""
    return tf.add_n([tf.reshape(each, [-1])[0] for each in products])


def graph(function, *tensors):
    """A function without arguments that runs a function in a graph, for tensors that TensorFlow
    does not know when it builds the graph.
    """
    compiled = tf.function(function, autograph=False)
    return lambda: compiled(*tensors)


def page_faults():
    """GB/s of filling memory that the system has just given to the process, and filling it again:
    what a large temporary costs if the allocator returns its pages to the system.
    """
    fresh, reused = Clock(), Clock()
    for _ in range(3):
        with mmap.mmap(-1, BANDWIDTH_BYTES) as pages:
            numbers = np.frombuffer(pages, np.float32)
            fresh.measure(lambda numbers=numbers: numbers.fill(1))
            reused.measure(lambda numbers=numbers: numbers.fill(1))
            del numbers
    return {
        "fresh_write_gbs": BANDWIDTH_BYTES / fresh.median() / 1e9,
        "reused_write_gbs": BANDWIDTH_BYTES / reused.median() / 1e9,
    }
