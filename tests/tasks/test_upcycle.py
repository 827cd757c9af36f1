"""Upcycling: a dense run becomes a mixture with the same outputs."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.config import build_model, build_optimizer, dump_config, load_config
from tfmoe.data_pipelines import Vocabulary
from tfmoe.layers import FeedForward, MoE
from tfmoe.tasks import load_run, upcycle_run
from tfmoe.tasks.upcycle import layer_pairs, scale_of
from tfmoe.tasks.upcycled_config import upcycled_config
from tfmoe.training.conversions import upcycled
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.state import TrainingState, saved_step
from tfmoe.training.transfer import slots_of, transfer_weights, value_of

CONFIG = """\
model:
  name: language_model
  d_model: 4
  dropout: 0.1
  blocks:
    - {name: feed_forward, hidden_units: 3}
    - {name: lstm, units: 4}
    - {name: feed_forward, hidden_units: 6, depth: 2, gated: true, use_bias: true, norm: rms}
data: {name: grammars, grammars: 2, symbols: 3, successors: 2, train_sentences: 9}
training: {epochs: 3, steps_per_epoch: 5}
"""
TOKENS = tf.constant([[1, 3, 4, 3], [1, 4, 4, 3]]), tf.constant([[3, 4, 3, 0], [4, 4, 3, 0]])


def state_of(config, folder):
    """The `TrainingState` of a new model."""
    model = build_model(config, 5)
    model.compile(build_optimizer(config))
    model.build((None, None))
    return TrainingState(model, folder)


def write_run(path, text):
    """Writes a run after 2 epochs of 5 steps and 2 steps of the third, with random weights and
    slots, and other best weights.
    """
    path.mkdir()
    (path / "config.yaml").write_text(text)
    run, config = RunDirectory(path), load_config(path / "config.yaml")
    run.config.write_text(dump_config(config))
    vocabulary = Vocabulary(["</S>", "<S>", "<UNK>", "a", "b"])
    vocabulary.save(run.vocabulary)
    run.write_json(run.facts, {"vocabulary": vocabulary.fingerprint, "text": {}})
    run.write_history([{"epoch": 1, "words": 70}, {"epoch": 2, "words": 70}])
    state, generator = state_of(config, run.checkpoints), np.random.default_rng(0)
    optimizer = state.model.optimizer

    def randomize(variables):
        for variable in variables:
            variable.assign(generator.random(variable.shape) - 0.2)

    randomize(state.model.trainable_variables)
    state.save_best()
    randomize(state.model.trainable_variables)
    randomize(v for v in optimizer.variables if v is not optimizer.iterations)
    optimizer.iterations.assign(12)
    state.epoch.assign(2)
    state.best.assign(3.5)
    state.save()
    return run


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("dense") / "run", CONFIG)


@pytest.fixture(scope="module")
def mixture(dense):
    """The run of an upcycling of its second feed-forward network, and the result."""
    out = dense.path.parent / "mixture"
    result = upcycle_run(dense.path, out, experts=4, k=2, overrides=["training.epochs=7"])
    return RunDirectory(out), result


@pytest.mark.parametrize("weights", ["best", "last"])
def test_outputs_at_step_0_are_those_of_the_dense_model(dense, mixture, weights):
    before, after = load_run(dense.path, weights), load_run(mixture[0].path, weights)
    expected = before.model.negative_log_likelihood(*TOKENS)
    np.testing.assert_allclose(
        after.model.negative_log_likelihood(*TOKENS), expected, rtol=0, atol=1e-6
    )
    assert isinstance(after.model.blocks[0].layer, FeedForward)
    layer = after.model.blocks[2].layer
    assert isinstance(layer, MoE) and layer.num_experts == 4 and layer.gate.k == 2
    assert 0.005 < np.std(layer.gate.gate_kernel) < 0.06  # a sample of 16 from a deviation of 0.02
    assert after.config.training.epochs == 7


def test_the_state_goes_on(dense, mixture):
    run, result = mixture
    old = state_of(load_config(dense.config), dense.checkpoints)
    new = state_of(load_config(run.config), run.checkpoints)
    assert old.restore() and new.restore()
    assert (int(new.epoch), new.step, float(new.best)) == (2, 12, 3.5)
    old_slots, new_slots = slots_of(old.model)[0], slots_of(new.model)[0]

    def slots(variable, of):
        return {name: value_of(slot) for name, slot in of[id(variable)].items()}

    embedding = slots(old.model.embedding.embeddings, old_slots)
    assert set(embedding) == {"momentum", "velocity"}
    for name, value in slots(new.model.embedding.embeddings, new_slots).items():
        np.testing.assert_array_equal(value, embedding[name])
    moe, network = new.model.blocks[2].layer, old.model.blocks[2].layer
    # An expert receives a quarter of the gradient: the moments of g and g² shrink by 4 and 16.
    for variables in ("kernels", "biases"):
        kind = variables.removesuffix("s").removesuffix("e")
        for index, variable in enumerate(getattr(moe.experts, variables)):
            of_dense = slots(getattr(network.dense[index], kind), old_slots)
            of_experts = slots(variable, new_slots)
            for name, divisor in (("momentum", 4), ("velocity", 16)):
                expected = np.stack([of_dense[name] / divisor] * 4)
                np.testing.assert_allclose(of_experts[name], expected, rtol=1e-6)
    assert not any(np.any(v) for v in slots(moe.gate.gate_kernel, new_slots).values())
    assert saved_step(run.checkpoints, "best") == 0  # that of the dense run
    assert run.read_history() == dense.read_history()
    made_from = json.loads(run.facts.read_text())["made_from"]
    assert made_from["run"] == str(dense.path) and made_from["step"] == 12
    assert result["blocks"] == ["model.blocks[2]"] and (result["experts"], result["k"]) == (4, 2)
    assert result["resume"].endswith(f"--run-dir {run.path} --resume")
    # A dense expert of 4·12 + 6·12 + 6·4 = 144 is computed twice; the gate has 4·4 = 16.
    ops = result["ops_per_timestep"]
    assert ops["after"] - ops["before"] == 144 + 16


def test_restart(dense, tmp_path):
    upcycle_run(dense.path, tmp_path / "new", experts=2, blocks="0", restart=True)
    run = RunDirectory(tmp_path / "new")
    state = state_of(load_config(run.config), run.checkpoints)
    assert state.restore()
    assert (int(state.epoch), state.step, float(state.best)) == (0, 0, np.inf)
    assert not np.any(value_of(state.model.optimizer._momentums[0]))
    assert run.read_history() == []
    before = load_run(dense.path, "last").model.negative_log_likelihood(*TOKENS)
    for weights in ("last", "best"):
        model = load_run(run.path, weights).model
        np.testing.assert_allclose(model.negative_log_likelihood(*TOKENS), before, atol=1e-6)


@pytest.mark.parametrize(
    "gate, overrides, scale",
    [
        ("top_k", [], 1),
        ("noisy_top_k", ["model.blocks[2].gate.noise=false"], 1),
        ("bias_balanced", ["model.blocks[2].gate.scale=2.5"], 2.5),
        ("softmax", [], 1),
        ("hash", [], 1),
        ("top_k", ["model.blocks[2].groups=2"], 1),
    ],
)
def test_the_outputs_of_experts_are_divided_by_the_sum_of_the_weights(
    dense, gate, overrides, scale
):
    config = load_config(dense.config)
    new = upcycled_config(config, dense.path, 4, None, gate, None, False, overrides)
    assert scale_of(new.config, "blocks", 2) == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"experts": 0}, "--experts must be 1 or more, got 0"),
        ({"experts": 4, "k": 5}, "--k must be from 1 to --experts 4, got 5"),
        ({"k": 0}, "--k must be from 1 to --experts 8, got 0"),
        ({"gate": "topk"}, "--gate must be one of .*, got 'topk'; did you mean top_k"),
        ({"gate": "switch", "k": 1}, "--k 1: the gate switch has no k"),
        ({"gate": "switch"}, "--gate switch: the weights of a token sum to 0.1.* to "),
        (
            {"overrides": ["model.blocks[2].gate.renormalize=false"]},
            "--gate top_k: the weights of a",
        ),
        ({"blocks": "1"}, r"--blocks '1' is no feed_forward block of .*: blocks\[0\], blocks\[2\]"),
        ({"blocks": "encoder[0]"}, r"--blocks 'encoder\[0\]' is no feed_forward block"),
        ({"experts": 10**9}, r"model.blocks\[2\].num_experts: must be at most 4194304"),
        ({"redrawn": 1.5}, "--redrawn must be from 0 to 1, got 1.5"),
        ({"overrides": ["model.dropout=0"]}, "--set cannot change model.dropout"),
        (
            {"overrides": ["model.blocks[2].activation=gelu"]},
            r"--set cannot change model.blocks\[2\].activation",
        ),
        ({"overrides": ["training.steps_per_epoch=9"]}, "steps_per_epoch without --restart"),
        ({"overrides": ["model.blocks[2].gate.typo=1"]}, "typo"),
    ],
)
def test_bad_arguments(dense, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        upcycle_run(dense.path, tmp_path / "new", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_runs_that_cannot_be_upcycled(dense, mixture, tmp_path):
    with pytest.raises(FileExistsError, match="mixture already exists: choose a new folder"):
        upcycle_run(dense.path, mixture[0].path)
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        upcycle_run(tmp_path, tmp_path / "new")
    before = sorted(dense.path.rglob("*"))
    for inside in ("new", "checkpoints/new"):
        with pytest.raises(ValueError, match=f"{inside} is inside of .*: choose a folder outside"):
            upcycle_run(dense.path, dense.path / inside)
    assert sorted(dense.path.rglob("*")) == before
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    for name in ("config", "facts", "vocabulary"):
        getattr(run, name).write_bytes(getattr(dense, name).read_bytes())
    with pytest.raises(FileNotFoundError, match="has no saved state yet: train the run"):
        upcycle_run(run.path, tmp_path / "new")


def test_the_gate_can_be_changed_by_an_override(dense, tmp_path):
    override = "model.blocks[2].gate={name: noisy_top_k, k: 3}"
    result = upcycle_run(dense.path, tmp_path / "new", 4, overrides=[override])
    assert (result["gate"], result["k"]) == ("noisy_top_k", 3)


def test_no_dense_block(dense):
    tree = load_config(dense.config)
    new = upcycled_config(tree, "run", 4, 2, "top_k", "all", False, ())
    assert new.blocks == [("blocks", 0), ("blocks", 2)]
    with pytest.raises(ValueError, match=r"moe, lstm, moe \(it is a mixture already\)"):
        upcycled_config(new.config, "run", 4, 2, "top_k", None, False, ())


def test_every_second_block_of_each_list():
    network = "{name: feed_forward, hidden_units: 4}"
    encoder = f"[{network}, {network}, {network}]"
    decoder = f"[{{name: attention_lstm, units: 256}}, {network}, {network}]"
    config = load_config(
        "demo/translation_dense", [f"model.encoder={encoder}", f"model.decoder={decoder}"]
    )
    new = upcycled_config(config, "run", 4, 2, "top_k", None, False, ())
    assert new.blocks == [("encoder", 0), ("encoder", 2), ("decoder", 2)]
    new = upcycled_config(config, "run", 4, 2, "top_k", "model.encoder[1]", False, ())
    assert new.blocks == [("encoder", 1)]
    with pytest.raises(ValueError, match="--blocks '1' is no feed_forward block"):
        upcycled_config(config, "run", 4, 2, "top_k", "1", False, ())


def test_a_failure_leaves_nothing(dense, tmp_path):
    state = state_of(load_config(dense.config), tmp_path / "run" / "checkpoints")
    state.model.embedding.embeddings.assign(np.full([5, 4], np.nan))
    state._last.save(0)  # a state that training would not save
    run = RunDirectory(tmp_path / "run")
    for name in ("config", "facts", "vocabulary"):
        getattr(run, name).write_bytes(getattr(dense, name).read_bytes())
    with pytest.raises(FloatingPointError, match="is not finite"):
        upcycle_run(run.path, tmp_path / "new" / "mixture")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_translation_model():
    network = "{name: feed_forward, hidden_units: 4}"
    config = load_config(
        "demo/translation_dense",
        [
            "model.d_model=8",
            f"model.encoder=[{{name: lstm, units: 8}}, {network}]",
            f"model.decoder=[{{name: attention_lstm, units: 8}}, {network}]",
        ],
    )
    new = upcycled_config(config, "run", 4, 2, "top_k", "all", False, ())
    assert new.blocks == [("encoder", 1), ("decoder", 1)]
    old_model, model = (build_model(each, 9) for each in (config, new.config))
    for each in (old_model, model):
        each.build((None, None))
    pairs = layer_pairs(old_model, model, new)
    transfer_weights(old_model, model, [upcycled(*layers) for layers in pairs])
    inputs = (tf.constant([[3, 4, 5]]), tf.constant([[1, 6, 7]]))
    targets = tf.constant([[6, 7, 0]])
    np.testing.assert_allclose(
        model.negative_log_likelihood(inputs, targets),
        old_model.negative_log_likelihood(inputs, targets),
        atol=1e-6,
    )
