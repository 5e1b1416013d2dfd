"""Generation: prefill, single steps, sampling."""
