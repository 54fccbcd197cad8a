"""What cameras show, when fire starts, and every setting: `load` reads it, `fleet` expands it."""
