"""onnxruntime's side of run.py: `infer NAME FILE BATCH REPETITIONS`."""

import json
import sys
import time

import numpy as np
import onnxruntime

THREADS = int(sys.argv[1])
sessions = {}
for line in sys.stdin:
    _, name, file, batch, repetitions = line.split()
    if name not in sessions:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        sessions[name] = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
    session = sessions[name]
    shape = [int(batch)] + session.get_inputs()[0].shape[1:]
    image = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    times = []
    for _ in range(int(repetitions)):
        start = time.perf_counter()
        session.run(None, {"image": image})
        times.append((time.perf_counter() - start) * 1e3)
    print(json.dumps(times), flush=True)
