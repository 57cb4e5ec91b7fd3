"""`cmssl-hf demo`: recordings and answers in a browser, by gradio and plotly of the extra `[demo]`."""
