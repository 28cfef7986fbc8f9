"""Serves static files. Browsers cache files with a version in their path permanently and revalidate all others."""

import os
import re
from typing import Final

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

IMMUTABLE: Final = "public, max-age=31536000, immutable"
_VERSION: Final = re.compile(r"-\d+\.\d+\.\d+[./-]")


class VersionedStaticFiles(StaticFiles):
    """Static files with caching headers. `nosniff` makes browsers use the declared media type."""

    def file_response(
        self, full_path: "str | os.PathLike[str]", stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = (
            IMMUTABLE if _VERSION.search(os.path.relpath(full_path, str(self.directory))) else "no-cache"
        )
        return response
