import os

# Ray reads these when it is imported, which no module of this package does before; what the user
# set wins.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
# Seconds that Ray Train waits for the resources of a group of workers.
START_TIMEOUT, START_TIMEOUT_S = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300"
os.environ.setdefault(START_TIMEOUT, START_TIMEOUT_S)
if not os.environ.get("RAY_ADDRESS"):
    # Ray's switch for clusters of desktop systems. Off, a Ray that is started here has the loopback
    # address, and all of its servers listen there alone; else they listen on every interface.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    # Seconds between two looks at the workers of a training, each of which waits for the next one
    # when it reports a state or a measure. Ray's two seconds are for many machines.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
