"""The command line `hf-contour`: one short file a command."""
