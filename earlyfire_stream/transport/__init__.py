"""How frames travel: in memory or over MQTT."""
