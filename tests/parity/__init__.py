"""What works with torch.nn.utils.prune, tried with both libraries, for docs/compatibility.md."""
