"""HeartLang (Jin et al. 2025, arXiv 2502.10707), a published encoder of ECG that reads heartbeats as words of a sentence."""
