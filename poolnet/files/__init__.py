"""The parts of the FileManager: offers, the exchange of pieces over links, downloads. Private to it."""
