"""The three stages on `transformers.Trainer`: arguments, trainers, run folders and reports."""
