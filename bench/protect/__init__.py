"""Protecting images: one pipeline for folders, datasets, single images and the `protect` stage of a matrix.

sources     what is protected: folders with masks or prompts, one image, a dataset in its layout
prompts     objects that a person points at, and the region that is protected for them
pipeline    decode, network, add noise, encode, check; bounded in memory, in the order of the files
output      one protected file: written, decoded again, measured; its row of the manifest
manifest    the rows on disk, and what of an interrupted run still holds
run         all of it together, behind `bench protect`
"""
