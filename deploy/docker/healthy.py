"""The images' health check: does EARLYFIRE_HEALTH_URL answer? (slim images have no curl)"""

import os
import sys
import urllib.request

url = os.environ["EARLYFIRE_HEALTH_URL"]
# Of this container itself: a proxy of the environment has no part in it.
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    with opener.open(url, timeout=5) as answer:
        answer.read()
except OSError as why:
    sys.exit(f"{url}: {why}")
