"""What the dataset builders share: reading releases, cutting windows, splitting subjects, simulating recordings."""
