"""The edge where the API begins: `uvicorn graph.app:app`. Reads the settings, opens nothing."""

import gc
import logging

from db import log, tracing
from graph.http.application import application
from graph.settings import Settings

settings = Settings.read()
log.configure(settings, "api")
for note in settings.notes():
    logging.getLogger(__name__).warning(note)
tracing.begin("tickgraph api")
settings.required_dsn()
app = application(settings)

# What was made by now stays, so the collector need not look at it again; and it need not look after every few requests, for
# what they leave behind goes by itself but for a few cycles. Together they cost a tenth of a small query.
gc.freeze()
gc.set_threshold(20_000, 10, 10)
