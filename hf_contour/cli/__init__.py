"""The command line `hf-contour`: one short file a command; torch is loaded only once the flags are right."""
