"""Static files: those with a version in their name for ever, the others as long as nothing changed."""

import os
import re
from typing import Final

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

FOR_EVER: Final = "public, max-age=31536000, immutable"
_VERSION: Final = re.compile(r"-\d+\.\d+\.\d+[.-]")


class Static(StaticFiles):
    """Files of a folder. A browser takes each for what it is said to be, and nothing else."""

    def file_response(
        self, full_path: "str | os.PathLike[str]", stat_result: os.stat_result, scope: Scope, status_code: int = 200
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = FOR_EVER if _VERSION.search(os.path.basename(full_path)) else "no-cache"  # noqa: PTH119
        return response
