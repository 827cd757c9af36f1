"""The smallest config that tests change."""

MINIMAL = """\
model:
  d_model: 8
  blocks:
    - {name: lstm, units: 8}
    - name: moe
      num_experts: 4
      hidden_units: 16
      gate: {name: noisy_top_k, k: 2}
data: {name: text, train: "train-*.txt"}
"""
