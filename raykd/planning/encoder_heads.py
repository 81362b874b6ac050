"""What an encoder's head takes in memory: of a teacher that scores, of a student that learns.

M learned positions, C outputs, V vocabulary, h hidden size, w bytes of a number.
"""

from __future__ import annotations

import math
from typing import Final

from raykd.config.classifier import LABELLED
from raykd.config.job import Job
from raykd.planning.encoder_activations import FP32
from raykd.planning.encoder_models import learned_share, vector_width
from raykd.planning.shape import ModelShape

COPIES: Final = 4
"""float32 arrays of a vector's size that the loss of labels or embeddings makes."""
TRANSFORMED: Final = 6
"""Arrays of the hidden size that the masked head makes: taken out, a matrix, gelu, a norm."""


def learned_positions(job: Job, tokens: int) -> int:
    """Of some tokens, those that something is said of: on average for masked ones, else at most."""
    return max(1, math.ceil(tokens * learned_share(job)))


def num_outputs(job: Job, model: ModelShape) -> int:
    """C: of a text, or a word, or as wide as the model where its vectors are learned."""
    assert job.classifier is not None, "the job is a classifier's"
    if job.classifier.task not in LABELLED:
        return model.hidden_size if job.classifier.task == "embedding" else 1
    names = [p for p in model.parameters if p.role == "head" and p.name != "projection.weight"]
    return names[-1].shape[0]


def scored_bytes(job: Job, model: ModelShape, width: int, tokens: int, block_numbers: int) -> int:
    """Most bytes of a teacher's outputs for some tokens.

    Args:
        job: The job.
        model: The teacher.
        width: w.
        tokens: That it reads at once.
        block_numbers: Most numbers that the codec works on at once.
    """
    assert job.classifier is not None, "the job is a classifier's"
    positions = learned_positions(job, tokens)
    if job.classifier.task != "masked":
        return COPIES * FP32 * positions * (num_outputs(job, model) + model.hidden_size)
    logits = positions * model.vocab_size
    block = FP32 * min(block_numbers, logits)
    return width * (logits + TRANSFORMED * positions * model.hidden_size) + 3 * block


def hidden_states_bytes(job: Job, model: ModelShape, width: int, tokens: int) -> int:
    """Bytes of all layers' states, which are handed out together where the last ones are wanted."""
    section = job.classifier
    assert section is not None, "the job is a classifier's"
    if section.cosine == 0 or section.task == "masked":
        return 0
    return width * tokens * model.hidden_size * (model.num_layers + 1)


def learned_bytes(job: Job, model: ModelShape, width: int, tokens: int, block_numbers: int) -> int:
    """Most bytes beside the activations: of head and loss, or of the last layer's gradients.

    Args:
        job: The job.
        model: The student.
        width: w.
        tokens: Of a micro-batch.
        block_numbers: Most numbers that the masked loss works on at once.
    """
    assert job.classifier is not None, "the job is a classifier's"
    positions = learned_positions(job, tokens)
    inner, hidden = model.intermediate_size, model.hidden_size
    in_layer = width * (tokens * (inner + 2 * hidden) + inner * hidden)
    if job.classifier.task != "masked":
        vectors = num_outputs(job, model) + hidden
        pooled = width * tokens * hidden if job.classifier.task == "embedding" else 0
        return max(in_layer, pooled + COPIES * FP32 * positions * vectors)
    logits = positions * model.vocab_size
    # Logits and their gradient; then that gradient and its product with the loss's.
    matrix = width * model.vocab_size * hidden
    states = TRANSFORMED * width * positions * hidden
    block = FP32 * min(block_numbers, logits)
    return max(in_layer, 2 * width * logits + 3 * block + matrix + states)


def largest_gradient(model: ModelShape, width: int) -> int:
    """Bytes of the largest parameter's gradient, whole before it joins the others."""
    return width * max(p.size for p in model.parameters)


def target_bytes(job: Job, teacher: ModelShape, student: ModelShape, distribution: int) -> int:
    """Bytes that a row's token has, on average, of what its teacher says, once decoded.

    Args:
        job: The job.
        teacher: The teacher.
        student: The student.
        distribution: Bytes of one masked token's distribution.
    """
    assert job.classifier is not None, "the job is a classifier's"
    vector = FP32 * vector_width(job, teacher, student, num_outputs(job, teacher))
    masked = distribution if job.classifier.task == "masked" else 0
    return math.ceil(learned_share(job) * (vector + masked))
