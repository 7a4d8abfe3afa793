"""What the other subpackages share: files, seeds, processes, failures, pictures, costs of models."""
