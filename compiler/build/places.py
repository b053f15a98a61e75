"""Where a build keeps things, as paths from the root."""

GENERATED = "generated"
MANIFEST = f"{GENERATED}/manifest.json"
STATE = ".llm-serve"
LOCK = f"{STATE}/lock"
SNAPSHOT = f"{STATE}/snapshot"
STORE = f"{STATE}/store.db"
