"""Counts the bytes that a device sends to others in a training step with sharded experts.

Symbols: R devices, D model. `distributed_training.py` has the step, `sent_bytes.py` the counter.

Columns, averaged over the devices and `--steps` steps:
    rows            of experts: rows sent to other devices × D × 4 bytes × 4 transfers (dispatch and
                    combine, forward and backward)
    ratio           rows relative to the prediction of `tfmoe.analysis.traffic.traffic_of`
    padded          bytes of the all-to-all operations for these rows, padded to the largest part
    padding         padded / rows
    dense           the all-reduce of dense gradients of replicated weights
    tables          gradients of tables (embedding and sampled softmax), with indices and padding
    gradients       dense + tables
    gradient_ratio  gradients relative to the prediction of
                    `tfmoe.analysis.gradient_traffic.gradient_traffic`
    other           everything else that `tfmoe.distribute` sends: counts, gate weights and
                    candidates; importance and load; norms and losses
    all             padded + gradients + other
    all_ratio       all relative to the sum of the two predictions, which is `bytes_sent_in_all` of
                    `tfmoe describe --json`

    python benchmarks/distribution_bytes.py            # all cases: 3 minutes of processor time
    python benchmarks/distribution_bytes.py --mixtures flat --devices 2
    python benchmarks/distribution_bytes.py --json
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import tensorflow as tf
from distributed_training import POSITIONS, D, Trainer, options_of, report, strategy_of
from sent_bytes import TRANSFERS, Counter

from tfmoe.analysis.gradient_traffic import gradient_traffic
from tfmoe.analysis.traffic import traffic_of
from tfmoe.inspection import mixtures_of

COLUMNS = {
    "mixture": "",
    "R": "",
    "rows": ",.0f",
    "ratio": ".4f",
    "padded": ",.0f",
    "padding": ".3f",
    "dense": ",.0f",
    "tables": ",.0f",
    "gradients": ",.0f",
    "gradient_ratio": ".4f",
    "other": ",.0f",
    "all": ",.0f",
    "all_ratio": ".4f",
}


def main():
    options = parse_arguments()
    context = multiprocessing.get_context("spawn")
    cases = []
    for mixture in options.mixtures:
        for devices in options.devices:
            print(f"{mixture}, {devices} devices …", file=sys.stderr)
            # In a new process, which creates this number of virtual devices.
            with ProcessPoolExecutor(1, context) as process:
                cases.append(process.submit(count, mixture, devices, options.steps).result())
    report(cases, COLUMNS, options.json, steps=options.steps)


def parse_arguments():
    parser = options_of(__doc__)
    parser.add_argument("--devices", type=int, nargs="+", default=[2, 4], metavar="R")
    parser.add_argument("--steps", type=int, default=3, help="steps to average over; default: 3")
    options = parser.parse_args()
    if min(options.devices) < 2:
        parser.error("--devices must be at least 2: a single device sends nothing")
    return options


def count(mixture, devices, steps):
    """The row of the table for one mixture and one number of devices."""
    trainer = Trainer(mixture, strategy_of(devices))
    counter = Counter(devices, D)
    with counter.counting():
        trainer.model.make_train_function(force=True)
        for _ in range(steps):
            trainer.step()
    (layer,) = mixtures_of(trainer.model).values()
    num_replica_steps = steps * devices
    size = tf.as_dtype(layer.compute_dtype).size
    rows = TRANSFERS * counter.rows_sent() / num_replica_steps * D * size
    tokens = POSITIONS // devices
    predicted = traffic_of(layer, D, tokens, devices)["bytes_sent"]
    predicted_gradients = gradient_traffic(trainer.model, tokens, devices)["bytes_sent"]
    totals, num_exchanges = counter.totals()
    assert num_exchanges == TRANSFERS * num_replica_steps, num_exchanges
    sent = {kind: float(total) / num_replica_steps for kind, total in totals.items()}
    gradients = sent["dense"] + sent["tables"]
    return {
        "mixture": mixture,
        "R": devices,
        "rows": float(rows),
        "predicted": predicted,
        "ratio": float(rows / predicted),
        "padded": sent["rows"],
        "padding": float(sent["rows"] / rows),
        "dense": sent["dense"],
        "tables": sent["tables"],
        "gradients": gradients,
        "predicted_gradients": predicted_gradients,
        "gradient_ratio": gradients / predicted_gradients,
        "other": sent["other"],
        "all": sum(sent.values()),
        "all_ratio": sum(sent.values()) / (predicted + predicted_gradients),
    }


if __name__ == "__main__":
    main()
