"""Each token belongs to the block of its document that it stands in, or to the last whole one before it."""

import jax.numpy as jnp
import numpy as np

from arch.ops.summaries import summary_of, sums


def row(*lengths, padding=0):
    """Positions and documents of a row of documents of these lengths."""
    positions = np.concatenate([*map(np.arange, lengths), np.zeros(padding, int)])
    documents = np.repeat([*range(1, len(lengths) + 1), 0], [*lengths, padding])
    return jnp.asarray(positions[None], jnp.int32), jnp.asarray(documents[None], jnp.int32)


def test_what_is_left_behind_whole_blocks_belongs_to_the_last_one():
    number, documents = summary_of(*row(8), 3)
    assert number.tolist() == [[0, 0, 0, 1, 1, 1, 1, 1]] and documents.tolist() == [[1, 1]]


def test_a_document_shorter_than_a_block_has_no_summary():
    number, documents = summary_of(*row(2, 4, 1, padding=2), 3)
    assert number.tolist() == [[-1, -1, 0, 0, 0, 0, -1, -1, -1]] and documents.tolist() == [[2, 0, 0]]


def test_documents_have_summaries_of_their_own():
    number, documents = summary_of(*row(4, 6, padding=1), 2)
    assert number.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3, 4, 4, -1]] and documents.tolist() == [[1, 1, 2, 2, 2]]


def test_a_row_shorter_than_a_block_has_no_summary():
    number, documents = summary_of(*row(2), 3)
    assert number.tolist() == [[-1, -1]] and documents.shape == (1, 0)


def test_a_sum_is_that_of_its_tokens_in_float32():
    x = jnp.asarray([[[1.0], [2.0], [4.0], [8.0], [256.0]]], jnp.bfloat16)
    made = sums(x, jnp.asarray([[0, 0, 1, -1, 1]]), 3)
    assert made.dtype == jnp.float32 and made.tolist() == [[[3.0], [260.0], [0.0]]]
