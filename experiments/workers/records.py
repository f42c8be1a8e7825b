"""What the results of runs on many workers must be."""

from collections.abc import Mapping

from optkit.comparison.records import (
    CURVE,
    CURVES,
    NOT_NEGATIVE,
    RESULT,
    SCORES,
    TEXT,
    TEXT_OR_NULL,
    TIMES,
    Kind,
    Schema,
    contradictions,
    header,
    integer,
    list_of,
    mapping_of,
    object_of,
)

_SCHEMAS: Mapping[str, Schema] = {
    "workers": header(
        "workers",
        inner=TEXT,
        learning_rate=mapping_of(NOT_NEGATIVE),
        topology=TEXT,
        workers=integer(1),
        alpha={**RESULT, "minimum": 0},
        mixing=TEXT_OR_NULL,
        compressor=TEXT_OR_NULL,
        feedback=TEXT,
        gamma=NOT_NEGATIVE,
        every={**integer(1), "type": ["integer", "null"]},
        dropout={**NOT_NEGATIVE, "maximum": 1},
        silent=integer(),
        attack=TEXT_OR_NULL,
        byzantine=integer(),
        batch_size=integer(1),
        seed=integer(),
        processes=integer(1),
    ),
    "training": object_of(
        optimizer=TEXT,
        steps=list_of(integer()),
        train_loss=CURVE,
        validation=CURVES,
        worst=CURVE,
        consensus=CURVE,
        test=SCORES,
        milliseconds_per_step=TIMES,
        sent=mapping_of(list_of(NOT_NEGATIVE)),
        exchanges=list_of(NOT_NEGATIVE),
    ),
}
RUN = Kind("workers", _SCHEMAS, contradictions)
