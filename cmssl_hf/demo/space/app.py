"""A Space of `cmssl-hf demo`."""

from cmssl_hf.demo.app import build, launch


demo = build()

if __name__ == "__main__":
    launch(demo, host=None)
