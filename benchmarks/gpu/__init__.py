"""What an accelerator must show, in parts of under eight minutes: README.md in this folder."""
