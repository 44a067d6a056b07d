"""CPU models by libvirt's names: which CPU a host has, whether a guest's fits it, what several have in common.

``tables`` holds the facts, ``model`` their types; ``host`` and ``kvm`` ask this host's CPU; ``definition`` reads
``<cpu>`` elements; ``decode`` finds the model a set of features resembles most; ``compare`` answers the questions.
"""
