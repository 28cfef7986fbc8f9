"""The edge where the API begins: `uvicorn graph.app:app`. Reads the settings, opens nothing."""

from graph.http.application import application
from graph.settings import Settings

settings = Settings.read()
settings.required_dsn()
app = application(settings)
