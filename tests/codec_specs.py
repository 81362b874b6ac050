"""Codecs of a vocabulary small enough to look at: V ids, K of them kept, D numbers of a state."""

from __future__ import annotations

from dataclasses import replace

from raykd.soft_targets.spec import CodecSpec

V, D, K = 11, 6, 3

TOP_K = CodecSpec("top_k", V, (1.0, 2.0), top_k=K, values="fp32", fingerprint="teacher")
SAMPLED = CodecSpec("sampled", V, (1.0, 2.0), draws=9, fingerprint="teacher")
HIDDEN = CodecSpec("hidden", V, hidden_size=D, hidden_values="fp32", fingerprint="teacher")
FULL = CodecSpec("full", V, values="fp32", fingerprint="teacher")

SPECS = {
    "top_k fp32": TOP_K,
    "top_k bf16": replace(TOP_K, values="bf16"),
    "top_k int8": replace(TOP_K, values="int8"),
    "top_k int6": replace(TOP_K, values="int6"),
    "top_k without tail": replace(TOP_K, values="int8", tail=False),
    "top_k in 3 bytes": replace(TOP_K, values="int8", vocab_size=2**16 + 5),
    "top_k fp32 in 3 bytes": replace(TOP_K, vocab_size=2**16 + 5),
    "sampled": SAMPLED,
    "sampled elsewhere": replace(SAMPLED, proposal_temperature=3.0),
    "hidden fp32": HIDDEN,
    "hidden bf16": replace(HIDDEN, hidden_values="bf16"),
    "hidden int8": replace(HIDDEN, hidden_values="int8"),
    "full fp32": FULL,
    "full bf16": replace(FULL, values="bf16"),
}
