"""Visual and text encoders, the joint step, the training loop and the model files."""
