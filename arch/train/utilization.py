"""Model FLOPs utilisation: the share of the devices' peak that the model's own products take.

    FLOPs of a step = 3 rows FLOPs of a row's forward pass
    MFU             = FLOPs of a step / (seconds of a step * devices * peak of a device)

Chowdhery et al., PaLM, 2022, arXiv 2204.02311, sec. 4.1 and app. B. The FLOPs are those that the result requires
(`arch.layers.flops`): causal attention is halved, which the paper does not do, and only the experts that a token is
sent to count. What rematerialisation computes again is not counted either; that would be hardware FLOPs utilisation.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from arch.layers.flops import TRAINING, UnknownFlops, unknown

TERA = 1e12

PEAKS = {
    # Google Cloud's pages on each TPU, "peak compute per chip (bf16)". A chip of v3 and of 7x is two JAX devices, a
    # chip of v4 and v5p is one (table of `jax.experimental.pallas.tpu.ChipVersion`).
    "TPU v3": 123 / 2,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
    "TPU7x": 2307 / 2,
    # NVIDIA's data sheets, "BFLOAT16 Tensor Core". A100: dense figure, beside twice as much with sparsity.
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    # H100, H200, GH200, L4, L40S: the sheets print what sparsity would give, twice the dense peak.
    "NVIDIA H100 80GB HBM3": 1979 / 2,
    "NVIDIA H100 PCIe": 1513 / 2,
    "NVIDIA H100 NVL": 1671 / 2,
    "NVIDIA H200": 1979 / 2,
    "NVIDIA H200 NVL": 1671 / 2,
    "NVIDIA GH200 480GB": 1979 / 2,
    "NVIDIA L4": 242 / 2,
    "NVIDIA L40S": 733 / 2,
    # Blackwell architecture technical brief, dense: HGX B200 and GB200 (of one of its two GPUs).
    "NVIDIA B200": 2250,
    "NVIDIA GB200": 2500,
}
"""Dense bfloat16 TFLOP/s of a JAX device, by its `device_kind`."""


@dataclasses.dataclass(frozen=True)
class Utilization:
    """How much of the devices a training run uses.

    Attributes:
      step_flops: model FLOPs of a step over the whole batch; 0 when they are not known.
      num_devices: that share the step.
      peak: FLOP/s of a device; 0 when it is not known.
      formula: what the numbers mean, or why there are none, as a line for the log.
    """

    step_flops: int
    num_devices: int
    peak: float
    formula: str

    def scalars(self, seconds: float) -> dict[str, float]:
        """Of a step of so many seconds, as far as they are known: `perf/tflops_per_second` of a device, `perf/mfu`."""
        if not self.step_flops:
            return {}
        rate = self.step_flops / self.num_devices / seconds
        return {"perf/tflops_per_second": rate / TERA} | ({"perf/mfu": rate / self.peak} if self.peak else {})


def step_flops(model_cfg: Any, num_rows: int, lengths: Mapping[str, int]) -> int:
    """Model FLOPs of a step of training: forward and backward, over all rows.

    Args:
      model_cfg: whose `flops` takes the lengths.
      num_rows: of the whole batch.
      lengths: tokens of a row: `length`, and `source_length` of an encoder-decoder; `predicted` of an encoder, those
        that need logits.

    Raises:
      UnknownFlops: a part of the model does not say.
    """
    if not hasattr(model_cfg, "flops"):
        raise unknown(model_cfg)
    return TRAINING * num_rows * model_cfg.flops(**lengths).required


def utilization(
    model_cfg: Any, num_rows: int, lengths: Mapping[str, int], *, device_kind: str, num_devices: int
) -> Utilization:
    """That of a run, on devices of a kind. Arguments as in `step_flops`."""
    try:
        flops = step_flops(model_cfg, num_rows, lengths)
    except UnknownFlops as error:
        return Utilization(0, num_devices, 0.0, f"no MFU: {error}")
    tokens = " and ".join(str(length) for name, length in lengths.items() if name != "predicted") + " tokens"
    tokens += f", {lengths['predicted']} of them predicted," if "predicted" in lengths else ""
    count = (
        f"{flops:.4g} model FLOPs a step = 3 (forward, backward) x {num_rows} rows of {tokens} x the products "
        "of a forward pass, causal attention halved, chosen experts only, nothing for rematerialisation"
    )
    if device_kind not in PEAKS:
        return Utilization(flops, num_devices, 0.0, f"{count}; no MFU: the peak of {device_kind!r} is not known")
    peak = PEAKS[device_kind] * TERA
    dtype = getattr(model_cfg, "dtype", "bfloat16")
    other = "" if dtype == "bfloat16" else f", though the model computes in {dtype}"
    share = f"MFU = FLOPs / (seconds x {num_devices} x {peak:.4g}, the dense bfloat16 peak of {device_kind!r}{other})"
    return Utilization(flops, num_devices, peak, f"{count}; {share}")
