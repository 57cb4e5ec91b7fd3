"""PaPaGei (Pillai et al. 2025, arXiv 2410.20542), a published encoder of PPG."""
