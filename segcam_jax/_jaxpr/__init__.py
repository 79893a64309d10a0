"""The one room that touches jaxprs: reading a traced model, finding taps, slicing at one."""
