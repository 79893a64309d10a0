"""From a store to what people look at: figures, files, tables. No network runs here."""
