"""JupyterLab as the course starts it: `config.py` are its settings, `server.py` runs it, `talk.py` shows slides."""

# How a kernel's threads wait for each other; torch reads it once, when it is imported. They leave the processor to
# others, but not at once: for a fraction of a millisecond they look whether there is more to do. Waking a thread takes
# longer than the products of a small model. Measured on two cores of a virtual machine, a LoRA step of the tiny GPT:
# 105 to 150 ms when they sleep at once, 80 to 490 with 3000 looks, 45 to 55 with 15000. Beside a second kernel that
# trains, looking costs both of them: where many share a processor (tests, a class server) it is 0.
WAITING = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "15000"}
