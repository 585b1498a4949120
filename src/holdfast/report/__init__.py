"""What a reader is shown of results: an HTML page, and tables for a terminal and for papers."""

from holdfast.report.losses import loss_table
from holdfast.report.page import write
from holdfast.report.table import as_csv, as_latex, as_markdown, text_table

__all__ = ["as_csv", "as_latex", "as_markdown", "loss_table", "text_table", "write"]
