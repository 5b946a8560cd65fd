"""Times Oncefit's probes with onnxruntime: run_probes.py FOLDER [THREADS]. Goes on where it stopped."""
import json, os, statistics as st, sys, time
import numpy as np, onnxruntime as ort
folder, threads = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
options = ort.SessionOptions(); options.intra_op_num_threads = threads; options.inter_op_num_threads = 1
path = os.path.join(folder, "timings.csv")
if not os.path.exists(path): open(path, "w").write("file,count,median_ms,mean_ms,std_ms\n")
done = {line.split(",")[0] for line in open(path)}
for probe in json.load(open(os.path.join(folder, "manifest.json")))["probes"]:
    if probe["file"] in done: continue
    session = ort.InferenceSession(os.path.join(folder, probe["file"]), options, providers=["CPUExecutionProvider"])
    feed, times = {"image": np.random.default_rng(0).standard_normal(probe["input"], dtype=np.float32)}, []
    for _ in range(25): start = time.perf_counter(); session.run(None, feed); times.append(1e3 * (time.perf_counter() - start))
    times = times[5:]
    with open(path, "a") as out: out.write(f"{probe['file']},{len(times)},{st.median(times):.6f},{st.mean(times):.6f},{st.stdev(times):.6f}\n")
