"""The machine: meshes, logical-axis rules, constraints."""
