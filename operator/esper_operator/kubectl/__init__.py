"""``kubectl esper``: runs as people ask about them. Views are functions of resources; one adapter asks the cluster."""
