"""The glue between the benchmark's contracts and mmengine: one trainer and one predictor for all victims."""
