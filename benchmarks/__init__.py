"""What we measure, against whom; ``python -m benchmarks`` runs it all."""
