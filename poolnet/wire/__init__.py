"""What goes over the wire: bounded CBOR, frames and their fields, messages and their bodies. Pure."""
