"""The tools that belong to no family: they run around a transformation, or report on one."""

from optkit.core.cost.cost import Cost, cost
from optkit.core.curvature import HessianExtremes, directional_sharpness, hessian_extremes
from optkit.core.injection import inject_hyperparams
from optkit.core.precision import in_float32
from optkit.core.preprocessing import preprocess_gradients
from optkit.core.workers.on_workers import on_workers, worker_axes
from optkit.core.workers.resizing import resize_workers
from optkit.core.workers.sharding import state_shardings
from optkit.method import Method, Paper

__all__ = [
    "Cost",
    "HessianExtremes",
    "cost",
    "directional_sharpness",
    "hessian_extremes",
    "in_float32",
    "inject_hyperparams",
    "on_workers",
    "preprocess_gradients",
    "resize_workers",
    "state_shardings",
    "worker_axes",
]

METHODS = (
    Method(
        name="cost",
        factory=cost,
        kind="function",
        summary="Counts bytes of state, temporary memory, FLOPs and bytes sent of one update, before training.",
        also_known_as=("memory estimate", "communication volume"),
    ),
    Method(
        name="in_float32",
        factory=in_float32,
        kind="function",
        summary="Runs a transformation in float32 when parameters have 16 bits.",
        also_known_as=("mixed precision", "bfloat16 training"),
    ),
    Method(
        name="inject_hyperparams",
        factory=inject_hyperparams,
        kind="function",
        summary="Keeps hyperparameters in the optimizer's state, except functions, trees and sizes.",
        also_known_as=("optax.inject_hyperparams", "schedule any hyperparameter"),
    ),
    Method(
        name="preprocess_gradients",
        factory=preprocess_gradients,
        kind="function",
        summary="Clips or otherwise transforms all gradients of a method that asks for gradients itself.",
        also_known_as=("clipping inside grad_fn",),
    ),
    Method(
        name="on_workers",
        factory=on_workers,
        kind="function",
        summary="Runs a step written for one worker on all of them, by vmap, pmap or shard_map.",
        also_known_as=("data parallel", "pmap", "shard_map", "simulate workers"),
        parts=(worker_axes,),
    ),
    Method(
        name="resize_workers",
        factory=resize_workers,
        kind="function",
        summary="Makes the state of more or fewer workers, so that nothing that workers still owed is lost.",
        also_known_as=("elastic training", "workers that join and leave"),
    ),
    Method(
        name="state_shardings",
        factory=state_shardings,
        kind="function",
        summary="Finds the shardings of an optimizer's state from those of its parameters.",
        also_known_as=("out_shardings", "FSDP", "tensor parallel"),
    ),
    Method(
        name="directional_sharpness",
        factory=directional_sharpness,
        kind="function",
        summary="Measures the curvature of a loss along an update, from one product of the Hessian and a vector.",
        paper=Paper(
            "Toward Understanding Why Adam Converges Faster Than SGD for Transformers", "Pan, Li", 2023, "2306.00204"
        ),
        also_known_as=("curvature along an update", "Hessian-vector product", "Rayleigh quotient"),
    ),
    Method(
        name="hessian_extremes",
        factory=hessian_extremes,
        kind="function",
        summary="Finds the largest and the smallest eigenvalue of a loss's Hessian by Lanczos's method.",
        also_known_as=("sharpness", "Lanczos", "top Hessian eigenvalue", "edge of stability"),
    ),
)
