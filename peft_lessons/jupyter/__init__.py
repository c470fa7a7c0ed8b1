"""JupyterLab as the course starts it: `config.py` are its settings, `server.py` runs it, `talk.py` shows slides."""
