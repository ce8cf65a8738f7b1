"""One pure function a file: window, baselines, policy → findings. Listed in core/detection.py."""
