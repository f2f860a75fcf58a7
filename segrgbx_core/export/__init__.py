"""Export of checkpoints to ONNX and AOTInductor, with parity checks."""
