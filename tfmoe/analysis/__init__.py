"""What a model costs, counted without allocating it, and plots of what runs measured."""
