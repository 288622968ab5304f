"""Where a checkpoint's files are, behind one protocol: what reads them knows no other place of them."""

from neuronmodel_worker.sources.folder import Folder
from neuronmodel_worker.sources.interface import ContentStat, FileStat, OpenFile, SourceFile, Stream, WeightSource

__all__ = ["ContentStat", "FileStat", "Folder", "OpenFile", "SourceFile", "Stream", "WeightSource"]
