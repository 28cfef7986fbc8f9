"""The edge where the API begins: `uvicorn graph.app:app`. Reads the settings, opens nothing."""

from db import log
from graph.http.application import application
from graph.settings import Settings

settings = Settings.read()
log.configure(settings, "api")
settings.required_dsn()
app = application(settings)
