"""ResNeXt in the registries of other packages: importing a module of this package registers every network there."""
