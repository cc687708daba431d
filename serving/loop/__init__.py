"""`genre loop`: one turn of the wheel, from readers' events to a new version that has proved itself."""
