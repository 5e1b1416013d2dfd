"""What a model does with its hidden states: one head a file, each a function (x, context, unembed) -> Output."""
