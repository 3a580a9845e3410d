def add_arguments(p):
    pass


def main(p):
    return 0
